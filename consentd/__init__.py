"""consentd decides, records and proves every use of a person's health data."""

__version__ = "0.1.0"
