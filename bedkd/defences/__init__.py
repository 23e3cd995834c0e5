"""The rival defences of Tables 1 and 2, one module each.

Each has `defend(view, config, *, seed) -> Defended`: what a defender may see goes in, what maps
texts to class probabilities comes out (`interface`).
"""
