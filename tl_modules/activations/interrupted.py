"""The exception for an interrupted collection that can be resumed."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a collection; the message says how many prompts are kept."""
