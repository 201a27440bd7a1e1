#!/bin/sh
# ping.t - t/ping.c, an embedder's server on channel.h, does what its head says.
echo 1..1
got=$(printf '%s\r\n' 'PING early' 'EHLO client' 'ping  twice ' 'VRFY root' \
    'HELP PING' 'MAIL FROM:<a@example.org>' 'RCPT TO:<b@example.org>' \
    'RCPT TO:<echo@example.org>' DATA 'Subject: x' '' '..' . QUIT | t/out/ping)
want=$(printf '%s\r\n' '220 ping.example.org ESMTP smtpd' '250 Pong early' \
    '250-ping.example.org' '250-PIPELINING' '250-SIZE 0' '250-8BITMIME' \
    '250-CHUNKING' '250-BINARYMIME' '250-ENHANCEDSTATUSCODES' \
    '250 HELP' '250 2.0.0 Pong twice' \
    '550 5.7.1 Nobody is discussed here' '214 2.0.0 Syntax: PING [SP string]' \
    '250 2.1.0 Sender OK' '550 5.1.1 Only echo lives here' \
    '250 2.1.5 Recipient OK' '354 End data with <CR><LF>.<CR><LF>' \
    '250 2.0.0 Message accepted' '221 2.0.0 ping.example.org Bye')
if [ "$got" = "$want" ]; then
	echo ok 1 - PING is added, VRFY replaced, a recipient refused
else
	echo not ok 1 - PING is added, VRFY replaced, a recipient refused
	printf '%s\n' "got:" "$got" "want:" "$want" | sed 's/^/# /'
fi
