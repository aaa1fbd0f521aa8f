"""What stops a collection that another run can resume."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during work of which a part is kept; its text says how much."""
