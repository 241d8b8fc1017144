"""The user's modules whose names the standard library or an installed package has too: `queue.py` is
`surefoot_actors.user_code.users.queue` here.

So both exist side by side: user code that says `import queue` gets its own, all other code gets the standard library's
(`surefoot_actors.user_code.shadows`). Empty but for its path, which is the user's: a process that unpickles a class of such a module
(a fresh data worker) finds it by the environment.
"""

from surefoot_actors.user_code.places import folders_from_environment

__path__ = folders_from_environment()
