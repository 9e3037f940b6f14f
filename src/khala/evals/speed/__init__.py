"""How fast songs are made: stage by stage, against floors and against a plain reference."""
