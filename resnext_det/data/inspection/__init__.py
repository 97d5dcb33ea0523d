"""A look at datasets before the first step: their files, images and boxes."""
