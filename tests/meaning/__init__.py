"""The meaning of a decision, in bulk: what ``test_policy`` and ``test_policy_laws`` do on a few cases in every run.

``python -m tests.meaning agree`` compares the evaluator with the reference interpreter and each residual with Check,
``python -m tests.meaning laws`` tries the laws, and ``python -m tests.meaning mutants`` changes the evaluator's source
and says which changes neither these two nor a test of policies notices. Each prints figures.
"""
