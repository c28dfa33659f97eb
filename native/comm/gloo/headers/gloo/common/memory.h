// Debian's libgloo-dev lacks this header, which its gloo/transport/tcp/*.h include: pointers to a buffer that its owner may
// destroy while the transport's thread still looks at it. libgloo has the code that makes and locks them; what is compiled here
// needs to know their sizes (each is one of the standard library's pointers) and how a weak one is had of the owner's.
#pragma once
#include <memory>

namespace gloo {

template <class T>
class WeakNonOwningPtr;

template <class T>
class NonOwningPtr {
  std::shared_ptr<T> locked_;
};

template <class T>
class ShareableNonOwningPtr {
  friend class WeakNonOwningPtr<T>;
  std::shared_ptr<T> own_;
};

template <class T>
class WeakNonOwningPtr {
 public:
  WeakNonOwningPtr() = default;
  explicit WeakNonOwningPtr(const ShareableNonOwningPtr<T>& owner) : weak_(owner.own_) {}

 private:
  std::weak_ptr<T> weak_;
};

}  // namespace gloo
