# Here so that pytest puts this folder on the path, and every test can import `fixtures`.
