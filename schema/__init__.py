"""The shapes of data: settings, requests, replies, messages and problems. Imports nothing of ours."""
