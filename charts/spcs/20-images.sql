-- Makes   the repository that 25-push.sh pushes both images to, and shows its URL.
-- Costs   the storage of the images, about 250 MB.
USE ROLE <% ctx.env.owner_role %>;

CREATE IMAGE REPOSITORY IF NOT EXISTS <% ctx.env.database %>.<% ctx.env.schema %>.<% ctx.env.repository %>;
SHOW IMAGE REPOSITORIES LIKE '<% ctx.env.repository %>' IN SCHEMA <% ctx.env.database %>.<% ctx.env.schema %>;
