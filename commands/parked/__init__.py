"""The verbs `parked …`: what a person does about messages that nobody will try again unasked."""
