-- The policy that was chosen for a chat, and the model or arm that was pinned; NULL where the chat
-- follows the settings.
ALTER TABLE chats ADD COLUMN route_policy TEXT;
ALTER TABLE chats ADD COLUMN route_model TEXT;
ALTER TABLE chats ADD COLUMN route_arm TEXT;
