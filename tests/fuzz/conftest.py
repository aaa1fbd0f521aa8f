"""What pytest leaves alone here."""

collect_ignore = ["atheris_files.py"]  # a script, which needs atheris
