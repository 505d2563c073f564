"""The notes' optimization: classifiers of digit images, by search and by descent with each engine's gradient."""
