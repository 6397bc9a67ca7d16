"""Images from file to normalised batch by C++ of our own, where that does what MindSpore does."""
