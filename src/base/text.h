/*
 * text.h - strings and numbers in the forms that mail and its logs need.
 */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mail.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define TEXT_NUMBER 21		/* octets of a number, with NUL */

/* The strings up to NULL, one after the other, in to[0..size), cut to fit.
   Returns to. */
char	*text_join(char *to, size_t size, ...) __attribute__((sentinel));

/* s, or p[0..len) up to a NUL, in to[0..size), cut to fit.  Returns to. */
char	*text_copy(char *to, size_t size, const char *s);
char	*text_cut(char *to, size_t size, const char *p, size_t len);

/* p[0..len) in to[0..size).  False if that is nothing, has a NUL, or does not
   fit. */
bool	text_fit(char *to, size_t size, const char *p, size_t len);

/* n in decimal, in as many digits at least, somewhere in to. */
const char *text_number(char to[TEXT_NUMBER], uint64_t n, size_t digits);

/* The IPv4 address a, as "192.0.2.1", in to[0..size). */
void	text_ipv4(char *to, size_t size, const unsigned char a[4]);

/* Reads digits only: no sign, no blank, no overflow. */
bool	text_parse_number(struct span s, uint64_t *n);

/* The number that a port is, 1 to 65535, or 0. */
unsigned text_parse_port(const char *s);

/* How many octets the character at p[0..len) has if it can be shown: ASCII or
   UTF-8 (RFC 3629).  0 for a control character (C1 too) and for an octet that
   begins no UTF-8 character.  len is at least 1. */
size_t	text_printable(const char *p, size_t len);

/* Is all of p[0..len), or of s, that? */
bool	text_is_printable(const char *p, size_t len);
bool	text_all_printable(const char *s);

/* Has no octet of p[0..len) its highest bit set? */
bool	text_is_ascii(const char *p, size_t len);

/* Copies text to safe, which has room for as many octets and may be text
   itself.  What cannot be shown becomes '?'; '\n' stays if lines is set. */
void	text_make_safe(char *safe, const char *text, bool lines);

/* Copies text to to[0..size), cut to fit, as one line: each '\n' becomes " / ",
   what cannot be shown becomes '?'.  Returns its length. */
size_t	text_one_line(char *to, size_t size, const char *text);

/* The first of the words, which blanks separate, that is name, in any case, or
   begins with "name="; or NULL. */
const char *text_find_word(const char *words, const char *name);

/* s as a span. */
struct span span_of(const char *s);

/* Does s begin with these octets?  Is p[0..len) that word? */
bool	text_starts(const char *s, const char *with);
bool	text_is(const char *p, size_t len, const char *word);

bool	text_is_digit(char c);		/* an ASCII digit */
bool	text_is_alnum(char c);		/* an ASCII letter or digit */
bool	text_is_control(char c);	/* a C0 control character, or DEL */
bool	text_is_space(char c);		/* as isspace(3) in the C locale */

/* How many octets the first line of p[0..len) has, with its '\n' if it has
   one. */
size_t	text_line(const char *p, size_t len);

/* Cuts text at blanks, where it stands, into words[0..most], which ends in
   NULL.  Returns how many there are; 0: none, or more than most. */
size_t	text_split(char *text, const char *blanks, char *words[], size_t most);

/* How many octets at p can stand in a label of a host's name: letters, digits,
   '-' and '_'. */
size_t	text_label(const char *p);

/* How many octets at p are digits. */
size_t	text_digits(const char *p);

/* The code, 200 to 599, of the reply that begins at p with just three digits
   (RFC 5321 4.2); 0: there is none. */
int	text_code(const char *p);

/* How many octets at p are an enhanced status code (RFC 3463 2) that a blank
   or the string's end follows, or 0. */
size_t	text_enhanced(const char *p);

/* The value of a digit of base64 (RFC 4648 4); -1: it is none. */
int	text_base64_digit(char c);

/* The octet that two hexadecimal digits at p, in any case, are, or -1; p[1] is
   looked at only if p[0] is one. */
int	text_hex_octet(const char *p);

/* Base64 of p[0..len) in to, which has room for 4 * ((len + 2) / 3) + 1.
   Returns the length without the NUL. */
size_t	text_encode_base64(char *to, const char *p, size_t len);

/* The count of base64's digits at p, without "=". */
size_t	text_base64_digits(const char *p);

/* Decodes canonical base64 (RFC 4648 3.5) into to[0..size), as far as it has
   room.  Returns the length of all of it, or -1 if s is not base64. */
long	text_decode_base64(char *to, size_t size, struct span s);

/* xtext (RFC 3461 4) of s in to[0..size), cut to fit.  special: the graphic
   characters that are written as "+XX". */
void	text_encode_xtext(char *to, size_t size, const char *s,
	    const char *special);

/* Decodes xtext into to[0..size), as far as it has room, without a NUL.
   Returns the length of all of it, or -1 if s is not xtext. */
long	text_decode_xtext(char *to, size_t size, struct span s);

#endif
