"""Why a layer is wrong: the dictionary of mistakes, and the search for those that give a layer's numbers."""
