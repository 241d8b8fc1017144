"""A module of settings, as scripts import them: the loop changes its variables."""

rate = 0.1
seen = {"steps": 0}


class Registry:
    made = 0


def next_rate():
    global rate
    rate *= 0.8
    return rate
