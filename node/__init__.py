"""The node: command line, configuration, and the supervisor that runs both doors and the mover.

The top layer, and the only one that knows the others by name and wires them together.
"""
