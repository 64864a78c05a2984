"""What holds for all tests: none of them measures time, and a machine that is busy fails none."""

from hypothesis import settings

settings.register_profile("consentd", deadline=None)
settings.load_profile("consentd")
