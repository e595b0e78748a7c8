"""The bundle metric <Hor U, Hor V>_F: lift, connection, geodesics."""

from manifolds.lazy import give_modules

give_modules(__name__)
