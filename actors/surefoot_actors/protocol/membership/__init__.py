"""The supervisor's part of the protocol, as a pure state machine."""
