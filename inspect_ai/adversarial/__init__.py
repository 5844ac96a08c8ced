"""What models of two players share: objectives, networks, and a watch over the game."""
