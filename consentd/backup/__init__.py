"""Backups of a ledger and of its vault: made while the daemon serves, restored and proven while none runs.

A backup is two *sets*, each a directory: one of the ledger, one of the vault. They are kept apart, because whoever has
both and the vault's key-encryption key reads everything, and because the set of the vault must expire: an erasure is
complete when the last copy of the vault that has the key is gone. A set has the files of one store, each encrypted with
age to the recipients of the configuration, and a manifest in the clear (``manifest``).

A set has no policy table, which is made from the ledger; no list of erasures and no last signed checkpoint, of which an
older copy would undo an erasure or hide a rollback; and no key.

``copies`` makes the copies of both stores' files. ``writing`` encrypts them into the directory of backups
(``directory``). ``reading`` decrypts a set. ``restoring`` proves the result, and puts it in place. ``proof`` has the
file that says which backup was proven last. ``age`` is the only door to ``pyrage``.
"""
