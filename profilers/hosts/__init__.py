"""Devices that are not this machine: boards over ssh, phones over adb, and what runs on them."""
