"""Generated from proto/consentd/v1 by ``make proto``; never edited by hand."""
