"""Points of edwards25519 (RFC 8032 5.1), computed straight from the definition, for signatures that no signer makes."""

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
Point = tuple[int, int]


def point_of(y: int, sign: int) -> Point | None:
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P:
        return None
    return (P - x if x & 1 != sign else x) % P, y


def plus(a: Point, b: Point) -> Point:
    product = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + product, P - 2, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, P - 2, P)
    return x % P, y % P


def times(n: int, a: Point) -> Point:
    result = (0, 1)
    while n:
        if n & 1:
            result = plus(result, a)
        a = plus(a, a)
        n >>= 1
    return result


def encoded(a: Point) -> bytes:
    return (a[1] | (a[0] & 1) << 255).to_bytes(32, "little")


BASE = point_of(4 * pow(5, P - 2, P) % P, 0)
POINTS = [point for point in (point_of(y, 0) for y in range(2, 30)) if point]
TORSION = next(point for point in (times(L, point) for point in POINTS) if times(4, point) != (0, 1))  # of order 8
