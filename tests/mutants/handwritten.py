"""Wrong rules as people write them: each has a bug of a class met in public projects, told in a few lines."""


def mutants():
    return ()
