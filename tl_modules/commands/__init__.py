"""The commands of ``tl-modules``, one a file."""
