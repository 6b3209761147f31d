"""The server of the app: started, followed and stopped as a process of its own."""
