"""How good what is found is: recipes against each other, words on the image, people and faces beside drawn boxes."""
