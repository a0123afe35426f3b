"""The library under the lessons: small, real implementations of diffusion models and of ways to steer them.

The method is to be read in this order: schedules, unet, classifier, guidance, samplers, counterfactuals, toy.
Then come data, weights, training; pipeline; images, pictures, evaluation; recipes; cli. Each imports only
what stands before it, and files, memory and names.
"""

__version__ = "0.1.0"
