"""A real service to be measured and mistreated; what starts and checks it is that of the tests.

In benchmarks/, with the tests' own modules beside it:

    PYTHONPATH=../tests/serve python -m serving.chaos --help
"""
