# -*- mode: ruby -*-
# Vagrant ends the thread that watches a booting machine by force. Where that falls between the taking of
# the machine's entry in Vagrant's index and its release, the machine stays locked for the rest of the run
# ("Vagrant can't use the requested machine because it is locked", or "not ready for guest communication"),
# the likelier the busier the computer is. Here an end waits until the state was asked for as a whole.
module WholeState
  def state
    Thread.handle_interrupt(Object => :never) { super }
  end
end
Vagrant::Machine.prepend(WholeState)
