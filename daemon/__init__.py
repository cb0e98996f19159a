"""The privileged daemon: the state machine and every effect."""
