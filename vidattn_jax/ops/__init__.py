"""Pure functions of arrays, jitted with the network that uses them."""
