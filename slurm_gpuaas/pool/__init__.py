"""Applications, award and redistribution over several clusters (built with the pool's issue)."""
