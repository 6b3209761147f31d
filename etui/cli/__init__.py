"""The command line: one module per command group, imported when the command runs.

stdout is data; notices, progress and errors go to stderr. Exit codes are ``errors.ExitCode``.
"""
