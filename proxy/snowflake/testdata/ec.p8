A key for tests alone: openssl genpkey -algorithm EC

-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgdGkqttPiSE5SsG3P
9x6tHXf0bZq/DJXYNFm8Vk/tkDuhRANCAARuoqh4LQq7HUyhOAQd2DNI9POu5VIs
p33srQBysHOWhJ+Tj4GskGwaHrwewgpmB9HynZILQcKrJUN7wtJu8/yR
-----END PRIVATE KEY-----
