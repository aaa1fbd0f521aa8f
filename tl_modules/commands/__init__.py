"""The commands of ``tl-modules``, one per file.

A command parses options, calls the package's functions, prints results and writes files.
"""
