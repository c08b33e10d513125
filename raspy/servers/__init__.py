"""The servers: one module (or small package) each; they never import each other.

:mod:`raspy.common.registry` names them.
"""
