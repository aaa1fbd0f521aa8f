"""The commands of ``tl-modules``, one per file.

They parse options, call the package's functions and print what these return.
"""
