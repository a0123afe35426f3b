"""The library under the lessons: small, real implementations of diffusion models and of ways to steer them.

Read the modules in this order: schedules, unet, classifier, guidance, samplers, data, weights, generation, training,
recipes, metrics, viz. Each imports only what stands before it.
"""

__version__ = "0.1.0"
