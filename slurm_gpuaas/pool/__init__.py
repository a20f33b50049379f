"""The pool: applications, award and redistribution over several clusters."""
