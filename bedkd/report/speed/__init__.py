"""How fast the kit is: against the textbook loop, against `Trainer`, against the machine."""
