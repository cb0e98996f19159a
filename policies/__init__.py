"""Pure decisions: facts in, decisions out. No I/O, no clock, no operating system; README.md is the specification."""
