"""The command line: one module a command group, each imported when it is called.

stdout is data; notices, progress and errors go to stderr. Exit codes are ``errors.ExitCode``.
"""
