"""From a Keras model to a .tflite file that is proven to be what was asked for."""
