"""A stranger's code: the protocol it is met with, what it takes, what it was seen to do."""
