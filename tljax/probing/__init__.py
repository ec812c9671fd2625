"""What the features of a frozen backbone are worth, by several small methods."""
