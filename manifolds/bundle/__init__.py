"""The bundle metric <Hor U, Hor V>_F: lift, connection, geodesics."""
