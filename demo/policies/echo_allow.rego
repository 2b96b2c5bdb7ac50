# Lets agents echo.
package autonomy

default allow := false

allow if input.kind == "tool.echo"
