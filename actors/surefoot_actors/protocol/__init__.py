"""The protocol of generations as pure state machines: plain data in, plain data out. No Ray, torch, network or clock."""
